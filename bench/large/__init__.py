"""What `bench/large_files.py` needs: files of gigabytes, and a server for them."""
