"""Pictures of a finished job: what they show is stored with its other files, and they are drawn from that later."""
