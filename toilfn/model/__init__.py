"""What a store holds, as typed records, and how it is read."""
