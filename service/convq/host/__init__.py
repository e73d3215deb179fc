"""What the operating system and Python say of this process, and what is asked of them."""
