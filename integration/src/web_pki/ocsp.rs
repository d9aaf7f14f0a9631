//! Answers of an OCSP server (RFC 6960), signed by a [`WebCa`].

use openssl::{bn::BigNumContext, ec::PointConversionForm, hash::MessageDigest, sha::sha1, sign::Signer, x509::X509};
use time::{Duration, OffsetDateTime, macros::format_description};

use super::{Pair, WebCa};

/// `SEQUENCE`.
const SEQUENCE: u8 = 0x30;
const OCTETS: u8 = 0x04;
const TIME: u8 = 0x18;
/// `id-pkix-ocsp-basic`, `sha1` with its parameters, and `ecdsa-with-SHA256`.
const BASIC: &[u8] = &[0x06, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const SHA1: &[u8] = &[SEQUENCE, 9, 0x06, 5, 0x2b, 14, 3, 2, 26, 0x05, 0];
const ECDSA: &[u8] = &[SEQUENCE, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// What has a tag and a length, of such parts.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match (high, low) {
        (0, 0..0x80) => vec![low],
        (0, _) => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &length[..], &content].concat()
}

fn moment(seconds: i64) -> Vec<u8> {
    let at = OffsetDateTime::now_utc() + Duration::seconds(seconds);
    der(TIME, &[at.format(format_description!("[year][month][day][hour][minute][second]Z")).unwrap().as_bytes()])
}

impl WebCa {
    /// What it answers, in DER, about a pair: made a day ago, and good for so many seconds from now.
    pub fn ocsp(&self, pair: &Pair, revoked: bool, seconds: i64) -> Vec<u8> {
        let leaf = X509::from_pem(pair.crt.as_bytes()).unwrap();
        let serial = [&[0], &leaf.serial_number().to_bn().unwrap().to_vec()[..]].concat();
        let serial = if serial[1] < 0x80 { &serial[1..] } else { &serial[..] };
        let key = self.key.ec_key().unwrap();
        let mut context = BigNumContext::new().unwrap();
        let key = sha1(&key.public_key().to_bytes(key.group(), PointConversionForm::UNCOMPRESSED, &mut context).unwrap());
        let name = sha1(&self.certificate.subject_name().to_der().unwrap());
        let id = der(SEQUENCE, &[SHA1, &der(OCTETS, &[&name]), &der(OCTETS, &[&key]), &der(0x02, &[serial])]);
        let made = moment(-86_400);
        let status = if revoked { der(0xa1, &[&made]) } else { vec![0x80, 0] };
        let single = der(SEQUENCE, &[&id, &status, &made, &der(0xa0, &[&moment(seconds)])]);
        let data = der(SEQUENCE, &[&der(0xa2, &[&der(OCTETS, &[&key])]), &made, &der(SEQUENCE, &[&single])]);
        let signature = Signer::new(MessageDigest::sha256(), &self.key).unwrap().sign_oneshot_to_vec(&data).unwrap();
        let basic = der(SEQUENCE, &[&data, ECDSA, &der(0x03, &[&[0], &signature])]);
        der(SEQUENCE, &[&[0x0a, 1, 0], &der(0xa0, &[&der(SEQUENCE, &[BASIC, &der(OCTETS, &[&basic])])])])
    }
}
