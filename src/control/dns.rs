//! The resolver of host names.

use std::net::SocketAddr;

use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts},
    net::runtime::TokioRuntimeProvider,
};

/// A resolver that asks `servers`, or those of the system's configuration if there are none; the system's hosts file counts for both.
///
/// # Errors
/// In words, when the system has no configuration that can be read.
pub fn resolver(servers: &[SocketAddr], set: impl FnOnce(&mut ResolverOpts)) -> Result<TokioResolver, String> {
    let mut builder = if servers.is_empty() { TokioResolver::builder_tokio().map_err(|e| e.to_string())? } else { asking(servers) };
    set(builder.options_mut());
    builder.build().map_err(|e| e.to_string())
}

fn asking(servers: &[SocketAddr]) -> ResolverBuilder<TokioRuntimeProvider> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
}
