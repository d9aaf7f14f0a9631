//! The certificates that Ingresses name.

use std::{collections::BTreeMap, path::Path, str, sync::Arc};

use k8s_openapi::api::{core::v1::Secret, networking::v1::Ingress};
use kube::ResourceExt;

use super::{objects::Objects, translate::problem};
use crate::{
    control::ingress::certificates::from_pem,
    model::{ingress::CertificatePair, registration::Unusable},
};

/// The pairs of all Secrets that these Ingresses name, by name. One that cannot be used any more stays as it was in `last`; one that is gone goes.
pub fn certificates(
    objects: &Objects,
    ours: &[&Arc<Ingress>],
    last: &[Arc<CertificatePair>],
    now: i64,
    problems: &mut Vec<Unusable>,
) -> Vec<Arc<CertificatePair>> {
    let mut pairs = BTreeMap::new();
    for ingress in ours {
        let namespace = ingress.namespace().unwrap_or_default();
        let named = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()).filter_map(|tls| tls.secret_name.as_ref());
        for secret_name in named {
            let name = format!("{namespace}/{secret_name}");
            if pairs.contains_key(&name) {
                continue;
            }
            let Some(secret) = objects.secrets.get(&namespace, secret_name) else {
                let why = format!("there is no Secret {secret_name} of type kubernetes.io/tls");
                problems.push(problem(ingress, why, "create it; until then its hosts are shown another certificate"));
                continue;
            };
            let known = last.iter().find(|pair| *pair.name == *name);
            match pair(&name, secret, now, problems) {
                Ok(pair) => {
                    let same = known.filter(|known| ***known == pair).cloned();
                    pairs.insert(name, same.unwrap_or_else(|| Arc::new(pair)));
                }
                Err(why) => {
                    problems.push(why);
                    pairs.extend(known.map(|known| (name, known.clone())));
                }
            }
        }
    }
    pairs.into_values().collect()
}

fn pair(name: &str, secret: &Secret, now: i64, problems: &mut Vec<Unusable>) -> Result<CertificatePair, Unusable> {
    let place = format!("Secret {name}");
    let part = |key: &str| {
        let text = secret.data.as_ref().and_then(|data| str::from_utf8(&data.get(key)?.0).ok());
        text.ok_or_else(|| Unusable {
            path: place.clone(),
            why: format!("it has no {key}, or that is not PEM"),
            advice: format!("create it by kubectl create secret tls {} --cert=FILE --key=FILE", secret.name_any()),
        })
    };
    from_pem(name, (Path::new(&place), part("tls.crt")?), (Path::new(&place), part("tls.key")?), now, problems)
}
