//! The mesh entry: `GET /v1/config/mesh/mesh`.

use consul_api_types::{Mesh, MeshTlsDirection};

use crate::model::mesh::{MeshConfig, TlsBounds, TlsVersion};

/// Decodes the mesh entry.
///
/// # Errors
/// A TLS version that is not known: the bounds of the last good entry are safer than none.
pub fn mesh(mesh: &Mesh) -> Result<MeshConfig, String> {
    let tls = mesh.tls.as_ref();
    Ok(MeshConfig {
        incoming: bounds("Incoming", tls.and_then(|tls| tls.incoming.as_ref()))?,
        outgoing: bounds("Outgoing", tls.and_then(|tls| tls.outgoing.as_ref()))?,
        sanitize_xfcc: mesh.http.as_ref().is_some_and(|http| http.sanitize_x_forwarded_client_cert),
    })
}

fn bounds(direction: &str, wire: Option<&MeshTlsDirection>) -> Result<TlsBounds, String> {
    let Some(wire) = wire else { return Ok(TlsBounds::default()) };
    let version = |key, text: &str| match text {
        "" | "TLS_AUTO" => Ok(None),
        "TLSv1_0" => Ok(Some(TlsVersion::V1_0)),
        "TLSv1_1" => Ok(Some(TlsVersion::V1_1)),
        "TLSv1_2" => Ok(Some(TlsVersion::V1_2)),
        "TLSv1_3" => Ok(Some(TlsVersion::V1_3)),
        other => Err(format!("TLS.{direction}.{key} is {other:?}, which is not known")),
    };
    Ok(TlsBounds {
        min: version("TLSMinVersion", &wire.tls_min_version)?,
        max: version("TLSMaxVersion", &wire.tls_max_version)?,
        cipher_suites: wire.cipher_suites.clone(),
    })
}
