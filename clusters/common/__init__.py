"""What several clusters share."""
