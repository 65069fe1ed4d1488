"""Who may do what: tokens and scopes, request rates, and the throttle on failed attempts."""
