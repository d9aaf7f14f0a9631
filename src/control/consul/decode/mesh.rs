//! The mesh entry: `GET /v1/config/mesh/mesh`.

use consul_api_types::{Mesh, MeshTlsDirection, RequestNormalization};

use crate::model::{
    mesh::{MeshConfig, TlsBounds, TlsVersion},
    path::{EscapedSlashes, Normalization, Underscores},
};

/// Decodes the mesh entry.
///
/// # Errors
/// A TLS version or an action that is not known: the last good entry is safer than a part of this one.
pub fn mesh(mesh: &Mesh) -> Result<MeshConfig, String> {
    let tls = mesh.tls.as_ref();
    let incoming = mesh.http.as_ref().and_then(|http| http.incoming.as_ref());
    Ok(MeshConfig {
        incoming: bounds("Incoming", tls.and_then(|tls| tls.incoming.as_ref()))?,
        outgoing: bounds("Outgoing", tls.and_then(|tls| tls.outgoing.as_ref()))?,
        normalization: normalization(incoming.and_then(|incoming| incoming.request_normalization.as_ref()))?,
        sanitize_xfcc: mesh.http.as_ref().is_some_and(|http| http.sanitize_x_forwarded_client_cert),
    })
}

fn normalization(wire: Option<&RequestNormalization>) -> Result<Normalization, String> {
    let Some(wire) = wire else { return Ok(Normalization::default()) };
    let unknown = |key, value| format!("HTTP.Incoming.RequestNormalization.{key} is {value:?}, which is not known");
    Ok(Normalization {
        path: !wire.insecure_disable_path_normalization,
        merge_slashes: wire.merge_slashes,
        escaped_slashes: match wire.path_with_escaped_slashes_action.as_str() {
            "" | "IMPLEMENTATION_SPECIFIC_DEFAULT" | "KEEP_UNCHANGED" => EscapedSlashes::Keep,
            "REJECT_REQUEST" => EscapedSlashes::Reject,
            "UNESCAPE_AND_REDIRECT" => EscapedSlashes::UnescapeAndRedirect,
            "UNESCAPE_AND_FORWARD" => EscapedSlashes::UnescapeAndForward,
            other => return Err(unknown("PathWithEscapedSlashesAction", other)),
        },
        underscores: match wire.headers_with_underscores_action.as_str() {
            "" | "ALLOW" => Underscores::Allow,
            "REJECT_REQUEST" => Underscores::Reject,
            "DROP_HEADER" => Underscores::Drop,
            other => return Err(unknown("HeadersWithUnderscoresAction", other)),
        },
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
    fn request_normalization_is_read_whole() {
        let read = |fields: Value| decode(json!({"HTTP": {"Incoming": {"RequestNormalization": fields}}})).map(|mesh| mesh.normalization);
        assert_eq!(read(json!({})), Ok(Normalization::default()));
        assert_eq!(
            read(json!({"InsecureDisablePathNormalization": true, "MergeSlashes": true,
                "PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD", "HeadersWithUnderscoresAction": "REJECT_REQUEST"})),
            Ok(Normalization {
                path: false,
                merge_slashes: true,
                escaped_slashes: EscapedSlashes::UnescapeAndForward,
                underscores: Underscores::Reject,
            })
        );
        for (text, action) in [
            ("IMPLEMENTATION_SPECIFIC_DEFAULT", EscapedSlashes::Keep),
            ("KEEP_UNCHANGED", EscapedSlashes::Keep),
            ("REJECT_REQUEST", EscapedSlashes::Reject),
            ("UNESCAPE_AND_REDIRECT", EscapedSlashes::UnescapeAndRedirect),
        ] {
            assert_eq!(read(json!({"PathWithEscapedSlashesAction": text})).unwrap().escaped_slashes, action);
        }
        for (text, action) in [("ALLOW", Underscores::Allow), ("DROP_HEADER", Underscores::Drop)] {
            assert_eq!(read(json!({"HeadersWithUnderscoresAction": text})).unwrap().underscores, action);
        }
        for key in ["PathWithEscapedSlashesAction", "HeadersWithUnderscoresAction"] {
            assert!(read(json!({key: "ROT13"})).unwrap_err().contains(key), "it never falls back to a weaker setting");
        }
    }

    #[test]
    fn a_version_that_is_not_known_is_named() {
        let error = decode(json!({"TLS": {"Incoming": {"TLSMinVersion": "TLSv1_9"}}})).unwrap_err();
        assert!(error.contains("TLS.Incoming.TLSMinVersion") && error.contains("TLSv1_9"), "{error}");
    }
}
