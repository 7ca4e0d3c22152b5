"""Code that several clusters share."""
