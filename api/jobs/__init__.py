"""What routes of jobs share: the job object, its status in the queue, filters, ETags, and the check of `init_from`."""
