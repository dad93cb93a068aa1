//! Tests which problems preflight finds before anything is created.

use http::StatusCode;
use lifecycle_azure::simulator::{CLIENT, Fault, Selector, TENANT, When};
use lifecycle_azure::{Azure, AzureOptions, Login};
use lifecycle_core::Error;
use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::model::NodeSpec;
use lifecycle_core::secret::Sensitive;
use serde_json::json;

use crate::raw;
use crate::support::{azure_with, carry, options, provider, provision, spec, writes};

async fn problems(wanted: &[NodeSpec]) -> Vec<String> {
    let azure = azure_with(|options| {
        options.restricted_sizes = vec![("westeurope".to_owned(), "Standard_F2s_v2".to_owned())];
        options.default_quota = 6;
    })
    .await;
    let report = provider(&azure, 1).preflight(wanted).await.unwrap();
    assert_eq!(writes(&azure), [], "preflight must not change anything");
    report.problems
}

fn of_size(name: &str, size: &str) -> NodeSpec {
    NodeSpec {
        size: Some(size.to_owned()),
        ..spec(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn available_nodes_have_no_problems() {
    assert_eq!(
        problems(&[spec("one"), spec("two")]).await,
        Vec::<String>::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_sizes_quotas_and_images() {
    let unknown_image = NodeSpec {
        image: Some("Debian:debian-12:13:latest".to_owned()),
        ..spec("five")
    };
    let found = problems(&[
        of_size("one", "Standard_X1"),
        of_size("two", "Standard_F2s_v2"),
        of_size("three", "Standard_D8s_v5"),
        unknown_image,
    ])
    .await;
    let parts = [
        "Node one: westeurope has no size Standard_X1",
        "Node two: size Standard_F2s_v2 in westeurope is not available to this subscription",
        "need 8 cores of standardDSv5Family in westeurope, but 0 of 6 are used",
        "westeurope has no image Debian:debian-12:13:latest",
    ];
    assert_eq!(found.len(), parts.len(), "{found:#?}");
    for part in parts {
        assert!(
            found.iter().any(|problem| problem.contains(part)),
            "{part}: {found:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_reported_without_showing_it() {
    let azure = azure_with(|_| ()).await;
    let planted = "a-secret-that-is-wrong";
    let options = AzureOptions {
        login: Login::ClientSecret {
            tenant: TENANT.to_owned(),
            client: CLIENT.to_owned(),
            secret: Sensitive::new(planted),
        },
        ..options(&azure, 1)
    };
    let told = format!("{options:?}");
    let provider = Azure::new(options).unwrap();
    let error = provider.preflight(&[spec("one")]).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(
        error.chain().contains("client secret:"),
        "{}",
        error.chain()
    );
    for text in [
        told,
        format!("{provider:?}"),
        error.chain(),
        format!("{error:?}"),
    ] {
        assert!(!text.contains(planted), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_a_foreign_vm_with_a_nodes_name() {
    let azure = azure_with(|_| ()).await;
    let ours = provider(&azure, 1);
    carry(&ours, provision("one")).await.unwrap();
    raw::strip_tags(&azure, "one").await;
    let report = ours.preflight(&[spec("one")]).await.unwrap();
    let [problem] = report.problems.as_slice() else {
        panic!("{report:?}");
    };
    assert!(problem.contains("Node one"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_an_image_that_requires_accepting_terms() {
    let azure = azure_with(|_| ()).await;
    let sold =
        json!({ "properties": { "plan": { "name": "a", "product": "b", "publisher": "c" } } });
    azure.faults().add(
        When::next(Selector::any().path("/skus/12-gen2/versions/")),
        Fault::json(StatusCode::OK, &sold),
    );
    let report = provider(&azure, 1).preflight(&[spec("one")]).await.unwrap();
    assert_eq!(azure.faults().pending(), 0);
    let [problem] = report.problems.as_slice() else {
        panic!("{report:?}");
    };
    assert!(problem.contains("without a plan"), "{problem}");
}
