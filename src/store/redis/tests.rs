//! Against a redis-server of their own.
