"""What routes of jobs share: the job object, filters, ETags, and the check of `init_from`."""
