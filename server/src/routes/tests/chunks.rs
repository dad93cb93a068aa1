//! Tests the routes of the chunks of mounted files.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::StatusCode;
use lifecycle_core::api::ManagerApi as _;
use lifecycle_core::model::{
    Chunk, ChunkDigest, FileContents, FileTree, ServiceName, ShippedFile, ShippedMount,
};
use serde_json::{Value, json};

use super::client::client;
use super::{Served, problem, request};

fn chunk(text: &'static str) -> Chunk {
    Chunk::new(text.into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_declaration_is_accepted_after_its_chunks_were_sent() {
    let served = Served::ready().await;
    let api = client(&served.router, &served.admin);
    let chunk = chunk("listen = 80\n");
    let mut declaration = served.declaration.clone();
    let name = ServiceName::try_from("web").unwrap();
    let web = declaration.services.get_mut(&name).unwrap();
    web.container.files.push(ShippedMount {
        target: "/etc/web.conf".into(),
        tree: FileTree::File(ShippedFile {
            mode: 0o644,
            uid: 0,
            gid: 0,
            contents: FileContents::Chunked(12),
        }),
        chunks: vec![chunk.digest()],
    });
    // A plan needs no contents.
    api.plan(&declaration).await.unwrap();
    let body = serde_json::to_vec(&declaration).unwrap();
    let put = request("PUT", "/v1/platform", Some(&served.admin), body.into());
    let refused = problem(served.send(put).await, StatusCode::CONFLICT, "PUT").await;
    assert_eq!(refused["kind"], "conflict");
    assert_eq!(served.get("/v1/platform").await["generation"], 1);

    let declared = declaration.chunks();
    assert_eq!(api.missing_chunks(&declared).await.unwrap(), declared);
    for _ in 0..2 {
        api.put_chunk(&chunk).await.unwrap();
        let missing = api.missing_chunks(&declared).await.unwrap();
        assert_eq!(missing, BTreeSet::new());
    }
    assert_eq!(api.apply(&declaration).await.unwrap().generation, 2);

    // Sizes that the chunks cannot contain are rejected, also if all chunks are stored.
    let web = declaration.services.get_mut(&name).unwrap();
    web.container.files[0].chunks.push(chunk.digest());
    let error = api.apply(&declaration).await.unwrap_err();
    assert!(error.to_string().contains("/etc/web.conf"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_must_match_its_digest_and_the_size_limit() {
    let served = Served::ready().await;
    let digest = chunk("secret file").digest().to_string();
    let put = |digest: &str, body: Vec<u8>| {
        let path = format!("/v1/chunks/{digest}");
        served.send(request("PUT", &path, Some(&served.admin), Body::from(body)))
    };
    for (digest, body, status) in [
        (
            &*digest,
            b"another file".to_vec(),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (&*digest, Vec::new(), StatusCode::UNPROCESSABLE_ENTITY),
        (
            "0123",
            b"secret file".to_vec(),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            &*digest,
            vec![0; Chunk::SIZE + 1],
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        let refused = problem(put(digest, body).await, status, digest).await;
        assert!(!refused.to_string().contains(digest), "{refused}");
    }
    let largest = vec![7; Chunk::SIZE];
    let digest_of_largest = ChunkDigest::of(&largest).to_string();
    let stored = put(&digest_of_largest, largest).await;
    assert_eq!(stored.status(), StatusCode::NO_CONTENT);
    let list = json!([digest, digest_of_largest]).to_string();
    let path = "/v1/chunks/missing";
    let sent = request("POST", path, Some(&served.admin), list.into());
    let missing: Value = super::json(served.send(sent).await).await;
    assert_eq!(missing, json!([digest]));
    let invalid = request("POST", path, Some(&served.admin), "[\"x\"]".into());
    problem(served.send(invalid).await, StatusCode::BAD_REQUEST, path).await;
}
