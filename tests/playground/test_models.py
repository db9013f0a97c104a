"""The models of the page, its pictures, and what it says of them, without a browser."""
