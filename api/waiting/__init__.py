"""Long polls and streams, and the thread that polls the database for all of them."""
