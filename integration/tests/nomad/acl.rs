//! Consul with ACLs, and sidecars that the driver `exec` locks in: a root of their own, another user, nothing to read but what Nomad leaves them.

use anyhow::ensure;
use aralez_integration::clients;
use aralez_integration::wait::eventually;

use crate::agent::{Agent, PATIENCE, port, shipped};
use crate::edge::is_native;
use crate::lab;
use crate::mesh::{both_answer, intend};

#[test]
fn locked_in_with_the_token_of_its_service_is_all_a_sidecar_needs() {
    lab::inside("acl::locked_in_with_the_token_of_its_service_is_all_a_sidecar_needs", || async {
        let agent = Agent::with_acls().await;
        agent.run(&shipped("mesh.nomad.hcl"), &["driver=exec"]);
        let web = port(&agent.allocations("mesh", "web", 1).await[0], "http");
        // The default of ACLs is the default of intentions.
        let denied = eventually("a refusal by api's sidecar", PATIENCE, async || {
            let answer = clients::get(&web, "/5000/").await?;
            ensure!(answer.status == 403, "{}: {}", answer.status, answer.text());
            Ok(())
        });
        denied.await.unwrap();
        intend(&agent, &web, "allow", 200).await;
        both_answer(&web).await;
        intend(&agent, &web, "deny", 403).await;
        is_native(&agent, &["acl=true"]).await;
    });
}
