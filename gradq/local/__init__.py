"""Everything on one machine: what `gradq up` starts, tends and ends."""
