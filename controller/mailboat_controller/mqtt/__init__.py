"""The broker's side: the link, and what goes over it in both directions."""
