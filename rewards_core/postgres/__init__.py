"""PostgreSQL databases: the engine of stores that processes of many machines share."""
