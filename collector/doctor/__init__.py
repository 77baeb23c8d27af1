"""What on this router keeps figures from being exact: facts are gathered, then judged purely."""
