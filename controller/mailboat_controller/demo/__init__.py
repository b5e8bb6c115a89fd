"""The demo: a small fleet on one machine, and the story of five releases told with real parts."""
