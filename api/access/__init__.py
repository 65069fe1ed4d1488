"""Access control: tokens and scopes, rate limits, and the throttle on failed authentication."""
