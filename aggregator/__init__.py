"""Record batches in, attributed rows in ClickHouse and answers for billing and demand out."""
