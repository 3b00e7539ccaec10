//! What a shell offers after `kubectl larder ...`: kubectl runs `kubectl_complete-larder` with the words so far, and reads
//! candidates and, as the last line, what else may follow. Pure but for the nodes' names, which the caller brings.

use clap::Command;

/// Nothing but these: no files (kubectl's ShellCompDirectiveNoFileComp).
const NO_FILES: &str = ":4";

/// The script that is to lie in the PATH as `kubectl_complete-larder`.
pub const SCRIPT: &str = "#!/bin/sh\nexec kubectl larder __complete \"$@\"\n";

/// Whether the word that is being written is a node's name.
pub fn wants_node(words: &[String]) -> bool {
    let written = words.split_last().map_or(&[][..], |(_, before)| before);
    let plain: Vec<&String> = written.iter().filter(|word| !word.starts_with('-')).collect();
    matches!(plain.as_slice(), [command] if ["drain", "undrain", "remove"].contains(&command.as_str()))
}

/// What may follow `words`, the last of which is being written.
pub fn candidates(command: &Command, words: &[String], nodes: &[String]) -> String {
    let (now, before) = words.split_last().map_or(("", &[][..]), |(now, before)| (now.as_str(), before));
    let chosen = before.iter().find_map(|word| command.find_subcommand(word));
    let mut found: Vec<String> = if now.starts_with('-') {
        let of = |command: &Command| -> Vec<String> {
            command.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect()
        };
        of(command).into_iter().chain(chosen.map(of).unwrap_or_default()).collect()
    } else if wants_node(words) {
        nodes.to_vec()
    } else if chosen.is_none() {
        let named = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let about = |sub: &Command| sub.get_about().map(|about| format!("\t{about}")).unwrap_or_default();
        named.map(|sub| format!("{}{}", sub.get_name(), about(sub))).collect()
    } else {
        Vec::new()
    };
    found.retain(|candidate| candidate.starts_with(now));
    found.push(NO_FILES.to_owned());
    found.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn lines(words: &[&str]) -> Vec<String> {
        let printed = Command::new("nodes").about("The nodes").arg(Arg::new("output").long("output"));
        let plugin = Command::new("larder").arg(Arg::new("cluster").long("cluster")).subcommands([
            printed,
            Command::new("drain"),
            Command::new("__complete").hide(true),
        ]);
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let nodes = ["n1".to_owned(), "m2".to_owned()];
        candidates(&plugin, &words, &nodes).lines().map(str::to_owned).collect()
    }

    #[test]
    fn commands_flags_and_nodes_are_offered() {
        assert_eq!(lines(&[""]), ["nodes\tThe nodes", "drain", ":4"]);
        assert_eq!(lines(&["no"]), ["nodes\tThe nodes", ":4"]);
        assert_eq!(lines(&["nodes", "--"]), ["--cluster", "--output", ":4"]);
        assert_eq!(lines(&["drain", "n"]), ["n1", ":4"]);
        assert_eq!(lines(&["drain", "n1", ""]), [":4"]);
        assert_eq!(lines(&[]), ["nodes\tThe nodes", "drain", ":4"]);
    }
}
