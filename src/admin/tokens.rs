//! `POST /jwt`: tokens that routes of `type: jwt` take, for whoever has the master key.
//!
//! Two forms of the question are known: `{"master_key", "owner", "valid": minutes}` and `{"master_key", "owner", "exp": minutes, "random"}`. Beside them,
//! `aud` makes a token for routes that ask for that audience only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use openssl::{memcmp, sha::sha256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::secret::Secret;

/// The longest life of a token, minutes: ten years.
const LONGEST: u64 = 10 * 365 * 24 * 60;

/// Who issues the tokens.
const ISSUER: &str = "aralez";

#[derive(Deserialize)]
struct Question {
    master_key: String,
    owner: String,
    /// Minutes.
    valid: Option<u64>,
    /// The same, as newer clients call it.
    exp: Option<u64>,
    random: Option<String>,
    aud: Option<String>,
}

/// What a token claims; never the key.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    owner: &'a str,
    user: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    random: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Answers a request for a token, at the time `now`: 201 `{"token"}`, or `{"error"}` with 400 (no JSON), 403 (wrong key, or no key is configured), 415 (not
/// said to be JSON) or 422 (a field is missing or impossible). The token is signed HS256 with the master key.
pub fn issue(body: &[u8], content_type: Option<&str>, key: Option<&Secret>, now: SystemTime) -> (StatusCode, Value) {
    match token(body, content_type, key, now) {
        Ok(token) => (StatusCode::CREATED, json!({"token": token})),
        Err((status, why)) => (status, json!({"error": why})),
    }
}

fn token(body: &[u8], content_type: Option<&str>, key: Option<&Secret>, now: SystemTime) -> Result<String, (StatusCode, String)> {
    let refuse = |status, why: &str| Err((status, why.to_owned()));
    let essence = content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content type is not application/json");
    }
    let value: Value = serde_json::from_slice(body).map_err(|e| (StatusCode::BAD_REQUEST, format!("not JSON: {e}")))?;
    // The words of serde may repeat a value that stands in the wrong field, so they are not passed on.
    let question = Question::deserialize(&value)
        .map_err(|_| (StatusCode::UNPROCESSABLE_ENTITY, "it needs texts master_key and owner, and minutes as valid or exp".to_owned()))?;
    let Some(key) = key.map(Secret::expose).filter(|key| !key.is_empty()) else {
        return refuse(StatusCode::FORBIDDEN, "no master_key is configured, so there are no tokens");
    };
    if !memcmp::eq(&sha256(key.as_bytes()), &sha256(question.master_key.as_bytes())) {
        return refuse(StatusCode::FORBIDDEN, "the master_key is wrong");
    }
    let minutes = match (question.valid, question.exp) {
        (Some(one), Some(other)) if one != other => return refuse(StatusCode::UNPROCESSABLE_ENTITY, "valid and exp differ"),
        (Some(minutes), _) | (None, Some(minutes)) if (1..=LONGEST).contains(&minutes) => minutes,
        (None, None) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, "it has neither valid nor exp: how many minutes?"),
        _ => return Err((StatusCode::UNPROCESSABLE_ENTITY, format!("valid or exp is not 1 to {LONGEST} minutes"))),
    };
    let iat = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let claims = Claims {
        iss: ISSUER,
        sub: &question.owner,
        owner: &question.owner,
        user: &question.owner,
        iat,
        exp: iat + minutes * 60,
        random: question.random.as_deref(),
        aud: question.aud.as_deref(),
    };
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(key.as_bytes()))
        .map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::jwt::KeySet;

    const KEY: &str = "5aeff7f9-7b94-447c-af60-e8c488544a3e";
    const NOW: u64 = 1_700_000_000;

    fn asked(body: &str, content_type: Option<&str>, key: Option<&str>) -> (u16, Value) {
        let key = key.map(Secret::new);
        let (status, value) = issue(body.as_bytes(), content_type, key.as_ref(), UNIX_EPOCH + Duration::from_secs(NOW));
        (status.as_u16(), value)
    }

    fn with(fields: Value) -> (u16, Value) {
        let mut body = json!({"master_key": KEY, "owner": "anna"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        asked(&body.to_string(), Some("application/json; charset=utf-8"), Some(KEY))
    }

    #[test]
    fn both_forms_of_the_question_get_a_token_by_the_master_key() {
        for fields in [json!({"valid": 5}), json!({"exp": 5, "random": "r"}), json!({"exp": 5, "valid": 5, "aud": "shop"})] {
            let (status, answer) = with(fields.clone());
            assert_eq!(status, 201, "{fields}");
            let token = answer["token"].as_str().unwrap();
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let decode = |part: &str| base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, part).unwrap();
            let keys = KeySet::of_secrets([&Secret::new(KEY)]).unwrap();
            assert_eq!(keys.verify("HS256", None, signed.as_bytes(), &decode(signature)), Ok(()));
            let claims: Value = serde_json::from_slice(&decode(signed.split_once('.').unwrap().1)).unwrap();
            let of = |name: &str| claims[name].clone();
            assert_eq!([of("owner"), of("user"), of("sub"), of("iss")], ["anna", "anna", "anna", "aralez"]);
            assert_eq!([of("iat"), of("exp")], [NOW, NOW + 300]);
            assert_eq!(
                [of("random"), of("aud")],
                ["random", "aud"].map(|name| fields
                    .get(name)
                    .filter(|_| name == "aud" || fields["random"] == "r")
                    .cloned()
                    .unwrap_or_default())
            );
            assert!(claims.get("master_key").is_none() && !claims.to_string().contains(KEY));
        }
    }

    #[test]
    fn every_other_question_has_its_status_and_repeats_no_secret() {
        let json = Some("application/json");
        let good = json!({"master_key": KEY, "owner": "anna", "valid": 5}).to_string();
        for (body, kind, key, status) in [
            (good.as_str(), None, Some(KEY), 415),
            (&good, Some("text/plain"), Some(KEY), 415),
            ("", json, Some(KEY), 400),
            ("{\"master_key\": ", json, Some(KEY), 400),
            ("[]", json, Some(KEY), 422),
            ("{}", json, Some(KEY), 422),
            (&good.replace("master_key", "masterkey"), json, Some(KEY), 422),
            (&good.replace(KEY, "5aeff7f9"), json, Some(KEY), 403),
            (&good.replace(KEY, ""), json, Some(""), 403),
            (&good, json, None, 403),
        ] {
            let (answered, value) = asked(body, kind, key);
            assert_eq!(answered, status, "{body} {kind:?} {value}");
            assert!(value["error"].is_string() && !value.to_string().contains("5aeff7f9"), "{value}");
        }
        for minutes in
            [json!(0), json!(-1), json!(1.5), json!("5"), json!(LONGEST + 1), json!(u64::MAX), json!(1e30), json!(null), json!([5])]
        {
            for name in ["valid", "exp"] {
                assert_eq!(with(json!({name: minutes})).0, 422, "{name} {minutes}");
            }
        }
        assert_eq!(with(json!({"valid": LONGEST})).0, 201);
        assert_eq!(with(json!({"valid": 5, "exp": 6})).0, 422);
        assert_eq!(with(json!({"valid": 5, "owner": 7})).0, 422);
    }
}
