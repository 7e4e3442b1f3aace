//! The server round the store: RPC services, transactions, raw keys.
