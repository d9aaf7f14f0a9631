//! OCSP answers to staple (RFC 6960): only what a client would take is shown to it.

use std::path::Path;

use openssl::{
    hash::MessageDigest,
    ocsp::{OcspBasicResponseRef, OcspCertId, OcspCertStatus, OcspFlag, OcspResponse, OcspResponseStatus},
    stack::Stack,
    x509::{
        X509,
        store::X509StoreBuilder,
        verify::{X509VerifyFlags, X509VerifyParam},
    },
};
use time::{PrimitiveDateTime, macros::format_description};

use super::{problem, read};
use crate::model::{credentials::Certificate, ingress::certificates::Staple, registration::Unusable};

/// How far the clock of the OCSP server may be before ours, seconds.
const SKEW: u32 = 300;

/// The answer in a file, for the first certificate of the chain.
///
/// # Errors
/// Why a client would not take it at `now`, seconds since the Unix epoch.
pub(super) fn load(path: &Path, chain: &[Certificate], now: i64) -> Result<Staple, Unusable> {
    let answer = read(path)?;
    let until = checked(&answer, chain).and_then(|until| if until <= now { Err("it is too old") } else { Ok(until) });
    let until = until.map_err(|why| problem(path, &why, "fetch a new one: openssl ocsp -respout FILE; until then nothing is stapled"))?;
    Ok(Staple { answer: answer.into(), until })
}

/// When an answer that is signed, and good for the first certificate, ends.
fn checked(answer: &[u8], chain: &[Certificate]) -> Result<i64, &'static str> {
    let answer = OcspResponse::from_der(answer).map_err(|_| "it is no OCSP answer")?;
    if answer.status() != OcspResponseStatus::SUCCESSFUL {
        return Err("the OCSP server had no answer");
    }
    let basic = answer.basic().map_err(|_| "it is an OCSP answer of an unknown kind")?;
    let certificate = |at: usize| chain.get(at).and_then(|certificate| X509::from_der(certificate.der()).ok());
    let (Some(leaf), Some(issuer)) = (certificate(0), certificate(1)) else {
        return Err("the file of the certificate lacks the issuer's, without which an answer cannot be checked");
    };
    let find = |digest| basic.find_status(&*OcspCertId::from_cert(digest, &leaf, &issuer).ok()?);
    let status = find(MessageDigest::sha1()).or_else(|| find(MessageDigest::sha256())).ok_or("it is about another certificate")?;
    if !is_signed(&basic, &issuer) {
        return Err("it is not signed by the issuer of the certificate, or by whom the issuer told to");
    }
    if status.status != OcspCertStatus::GOOD {
        return Err("it does not say that the certificate is good");
    }
    status.check_validity(SKEW, None).map_err(|_| "it is too old, or not valid yet")?;
    // Without an end, newer ones may be had at any time, and this one may be used for ever (RFC 6960, section 2.4).
    status.next_update().map_or(Some(i64::MAX), |end| seconds(&end.to_string())).ok_or("its end is no time")
}

/// Whether the issuer signed it, or somebody with a certificate of the issuer for that (RFC 6960, section 4.2.2.2).
fn is_signed(basic: &OcspBasicResponseRef, issuer: &X509) -> bool {
    let verified = || {
        let (mut store, mut signers, mut parameters) = (X509StoreBuilder::new()?, Stack::new()?, X509VerifyParam::new()?);
        store.add_cert(issuer.clone())?;
        // The issuer may be an intermediate, and is trusted here as if it were a root.
        parameters.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        store.set_param(&parameters)?;
        signers.push(issuer.clone())?;
        basic.verify(&signers, &store.build(), OcspFlag::TRUST_OTHER)
    };
    verified().is_ok()
}

/// Seconds since the Unix epoch, of a time as OpenSSL prints it.
fn seconds(printed: &str) -> Option<i64> {
    let format = format_description!("[month repr:short] [day padding:space] [hour]:[minute]:[second] [year] GMT");
    Some(PrimitiveDateTime::parse(printed, format).ok()?.assume_utc().unix_timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_openssl_are_read() {
        assert_eq!(seconds("Jan  2 00:00:01 1970 GMT"), Some(86_401));
        assert_eq!(seconds("Nov 22 14:33:50 2026 GMT"), Some(1_795_358_030));
        assert_eq!(seconds("error"), None);
    }
}
