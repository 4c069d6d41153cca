"""A model shared by many callers: queues, coalesced batches, replicas, and the handle that callers hold."""
