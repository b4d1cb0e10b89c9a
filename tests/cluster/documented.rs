//! What docs/cluster.md shows is what the API server takes.

use crate::support::kind;

#[test]
fn every_object_of_the_page_is_accepted() {
    let server = kind::server();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cluster.md");
    let page = std::fs::read_to_string(page).expect("there is a page");
    server.kubectl(&["create", "namespace", "research"]);
    let mut count = 0;
    for block in page.split("```yaml\n").skip(1) {
        let object = block.split("```").next().expect("a block ends");
        let output =
            server.try_kubectl(&["create", "--dry-run=server", "--validate=strict", "--filename", "-"], object);
        assert!(output.status.success(), "{}\n{object}", String::from_utf8_lossy(&output.stderr));
        count += 1;
    }
    assert_eq!(count, 3);
}
