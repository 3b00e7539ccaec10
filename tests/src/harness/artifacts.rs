//! What is kept of a cluster that failed, under `target/test-artifacts/<name>`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::Cluster;
use super::programs::profile_dir;

/// Words of a cluster that is broken may not come.
const WORDS_WITHIN: Duration = Duration::from_secs(10);

impl Cluster {
    /// Keeps what tells why it failed; returns where. Best effort: the cluster may be in any state.
    pub fn keep_artifacts(&self) -> PathBuf {
        let target = profile_dir().parent().map(Path::to_owned).unwrap_or_default();
        let kept = target.join("test-artifacts").join(self.name().replace("::", "."));
        let keep = |name: &str, content: String| {
            if let Err(error) = std::fs::write(kept.join(name), content) {
                eprintln!("can't keep {name}: {error}");
            }
        };
        // A leftover of an earlier failure would mislead.
        let _ = std::fs::remove_dir_all(&kept);
        if let Err(error) = std::fs::create_dir_all(&kept) {
            eprintln!("can't keep anything in {}: {error}", kept.display());
        }
        for file in ["cluster.yaml", "up.out", "up.err"] {
            keep(file, std::fs::read_to_string(self.folder().join(file)).unwrap_or_default());
        }
        for kind in ["cc", "cn", "cv"] {
            keep(&format!("{kind}.yaml"), self.words(&["get", kind, "-o", "yaml"]));
        }
        keep("status.txt", self.words(&["status"]));
        keep("mountinfo.txt", std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        for name in self.node_names() {
            let node = self.node(&name);
            keep(&format!("{name}.log"), node.log());
            keep(
                &format!("{name}.agent.yaml"),
                std::fs::read_to_string(node.dir().join("agent.yaml")).unwrap_or_default(),
            );
            for page in ["metrics", "debug/flights", "debug/stores"] {
                keep(
                    &format!("{name}.{}.txt", page.replace('/', ".")),
                    node.page(&format!("/{page}")).unwrap_or_default(),
                );
            }
        }
        kept
    }

    fn words(&self, args: &[&str]) -> String {
        // `run` panics at its deadline, and we may be here because of a panic already.
        let said = std::thread::scope(|scope| scope.spawn(|| self.larder(args, WORDS_WITHIN)).join());
        said.map_or_else(|_| "no answer\n".to_owned(), |ran| format!("{}{}", ran.out, ran.err))
    }
}
