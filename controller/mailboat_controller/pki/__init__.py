"""The fleet's certificates: who issues them, whom they name, how they are renewed and revoked."""
