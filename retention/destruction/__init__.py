"""Plans, carries out, certifies and resumes destruction: the one path by which rows leave."""
