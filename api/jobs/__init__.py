"""Shared by the routes of jobs: the job object, filters, ETags, and the check of `init_from`."""
