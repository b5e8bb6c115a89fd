"""Sites: named islands with a broker of their own, which a bridge joins to the centre."""
