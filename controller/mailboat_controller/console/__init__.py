"""The console: pages for people, read-only without JavaScript, live with it."""
