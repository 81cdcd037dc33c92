"""The phases that methods are made of: each reads files, writes files, and is not repeated once done."""
