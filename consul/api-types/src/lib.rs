//! Typed structs and queries of the Consul agent's HTTP API.
