//! The SSL Labs server rating guide (2009q) as far as a scan of one server can tell: what a server accepts, in one letter.

use std::collections::BTreeSet;
use std::fmt;

/// A version of the protocol, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// SSL 2.0.
    Ssl2,
    /// SSL 3.0.
    Ssl3,
    /// TLS 1.0.
    Tls1_0,
    /// TLS 1.1.
    Tls1_1,
    /// TLS 1.2.
    Tls1_2,
    /// TLS 1.3.
    Tls1_3,
}

impl Version {
    fn score(self) -> u32 {
        match self {
            Self::Ssl2 => 0,
            Self::Ssl3 => 80,
            Self::Tls1_0 => 90,
            Self::Tls1_1 => 95,
            Self::Tls1_2 | Self::Tls1_3 => 100,
        }
    }
}

/// A cipher suite that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suite {
    /// OpenSSL's or IANA's name.
    pub name: String,
    /// Strength of its cipher, bits.
    pub bits: u32,
}

impl Suite {
    fn is_forward_secret(&self) -> bool {
        let tls13 = self.name.starts_with("TLS_AES") || self.name.starts_with("TLS_CHACHA20");
        tls13 || self.name.contains("DHE")
    }

    fn is_authenticated(&self) -> bool {
        ["GCM", "CHACHA20", "CCM"].iter().any(|mode| self.name.contains(mode))
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Versions that were accepted.
    pub versions: BTreeSet<Version>,
    /// Suites that were accepted, in any version.
    pub suites: BTreeSet<Suite>,
    /// Strength of the weakest of certificate key and key exchange, as RSA bits (P-256 and X25519 are 3072).
    pub key_bits: u32,
    /// The chain leads to a root that the scan was told to trust, and the name is right.
    pub is_trusted: bool,
    /// `max-age` of `Strict-Transport-Security`, seconds.
    pub hsts: Option<u64>,
}

/// A rating.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rating {
    /// Parts of the score, each of 100: protocols, key exchange, ciphers.
    pub parts: [u32; 3],
    /// The score, of 100.
    pub score: u32,
    /// The grade.
    pub grade: &'static str,
    /// What the grade was lowered by, or is not raised for.
    pub because: Vec<&'static str>,
}

impl fmt::Display for Rating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [protocols, key_exchange, ciphers] = self.parts;
        write!(f, "{} ({}: protocols {protocols}, key exchange {key_exchange}, ciphers {ciphers}", self.grade, self.score)?;
        self.because.iter().try_for_each(|why| write!(f, "; {why}"))?;
        f.write_str(")")
    }
}

/// Rates what a scan found.
pub fn rate(found: &Findings) -> Rating {
    let middle = |scores: &[u32]| scores.iter().max().zip(scores.iter().min()).map_or(0, |(best, worst)| u32::midpoint(*best, *worst));
    let protocols = middle(&found.versions.iter().map(|version| version.score()).collect::<Vec<_>>());
    let key_exchange = match found.key_bits {
        0 => 0,
        1..512 => 20,
        512..1024 => 40,
        1024..2048 => 80,
        2048..4096 => 90,
        _ => 100,
    };
    let strength = |bits| match bits {
        0 => 0,
        1..128 => 20,
        128..256 => 80,
        _ => 100,
    };
    let ciphers = middle(&found.suites.iter().map(|suite| strength(suite.bits)).collect::<Vec<_>>());
    let score = (30 * protocols + 30 * key_exchange + 40 * ciphers) / 100;
    let mut grade = ["F", "E", "D", "C", "B", "A"]
        .into_iter()
        .zip([0, 20, 35, 50, 65, 80])
        .rev()
        .find(|(_, least)| score >= *least)
        .map_or("F", |g| g.0);
    let mut because = Vec::new();
    // Letters grow as grades fall.
    let mut cap = |is_so: bool, lowest: &'static str, why| {
        if is_so {
            grade = grade.max(lowest);
            because.push(why);
        }
    };
    cap(found.versions.contains(&Version::Ssl2), "F", "SSL 2.0");
    cap(found.versions.contains(&Version::Ssl3), "C", "SSL 3.0");
    cap(found.versions.iter().any(|v| matches!(v, Version::Tls1_0 | Version::Tls1_1)), "B", "TLS 1.0 or 1.1");
    cap(!found.versions.contains(&Version::Tls1_2) && !found.versions.contains(&Version::Tls1_3), "C", "neither TLS 1.2 nor 1.3");
    cap(!found.suites.iter().any(Suite::is_forward_secret), "B", "no forward secrecy");
    cap(!found.suites.iter().any(Suite::is_authenticated), "B", "no authenticated encryption");
    cap(found.suites.iter().any(|suite| suite.name.contains("RC4")), "C", "RC4");
    cap(found.suites.iter().any(|suite| suite.bits < 128), "C", "ciphers below 128 bits");
    if !found.is_trusted {
        (grade, because) = ("T", vec!["not trusted"]);
    } else if grade == "A" && !found.versions.contains(&Version::Tls1_3) {
        grade = "A-";
        because.push("no TLS 1.3");
    } else if grade == "A" {
        match found.hsts {
            Some(15_768_000..) => grade = "A+",
            Some(_) => because.push("HSTS for less than half a year"),
            None => because.push("no HSTS"),
        }
    }
    Rating { parts: [protocols, key_exchange, ciphers], score, grade, because }
}
