//! The mesh entry: `GET /v1/config/mesh/mesh`.

use consul_api_types::{Mesh, MeshTlsDirection};

use crate::model::{
    mesh::{MeshConfig, TlsBounds, TlsVersion},
    path::Normalization,
};

/// Decodes the mesh entry.
///
/// # Errors
/// A TLS version that is not known: the bounds of the last good entry are safer than none.
pub fn mesh(mesh: &Mesh) -> Result<MeshConfig, String> {
    let tls = mesh.tls.as_ref();
    Ok(MeshConfig {
        incoming: bounds("Incoming", tls.and_then(|tls| tls.incoming.as_ref()))?,
        outgoing: bounds("Outgoing", tls.and_then(|tls| tls.outgoing.as_ref()))?,
        normalization: Normalization::default(),
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

#[cfg(test)]
mod tests {

    use serde_json::{Value, json};

    use super::*;

    fn decode(wire: Value) -> Result<MeshConfig, String> {
        mesh(&serde_json::from_value(wire).unwrap())
    }

    #[test]
    fn versions_suites_and_xfcc_are_read() {
        let config = decode(json!({"Kind": "mesh",
            "TLS": {"Incoming": {"TLSMinVersion": "TLSv1_3"}, "Outgoing": {"TLSMaxVersion": "TLSv1_2", "TLSMinVersion": "TLS_AUTO",
                "CipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]}},
            "HTTP": {"SanitizeXForwardedClientCert": true}}));
        let config = config.unwrap();
        assert_eq!(config.incoming, TlsBounds { min: Some(TlsVersion::V1_3), ..TlsBounds::default() });
        assert_eq!((config.outgoing.min, config.outgoing.max), (None, Some(TlsVersion::V1_2)));
        assert_eq!(config.outgoing.cipher_suites, ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]);
        assert!(config.sanitize_xfcc);
        assert_eq!(decode(json!({"Kind": "mesh"})).unwrap(), MeshConfig::default());
    }

    #[test]
    fn a_version_that_is_not_known_is_named() {
        let error = decode(json!({"TLS": {"Incoming": {"TLSMinVersion": "TLSv1_9"}}})).unwrap_err();
        assert!(error.contains("TLS.Incoming.TLSMinVersion") && error.contains("TLSv1_9"), "{error}");
    }
}
