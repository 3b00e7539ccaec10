//! What Kubernetes asks of a schema, and what we ask of ours, walked over every field.

use larder_crds::{Kind, definition};
use serde_json::{Value, json};

use super::{schema, walk};

/// Every field of every spec. A field enters in the change that makes it work; adding a line here is that change's signature.
const SPEC_FIELDS: &str = include_str!("../../fixtures/spec-fields.txt");

/// Calls `visit` for each schema within the specs.
fn each_in_spec(visit: &mut dyn FnMut(Kind, &str, &Value)) {
    for kind in Kind::ALL {
        walk(&schema(kind)["properties"]["spec"], "spec", &mut |path, schema| visit(kind, path, schema));
    }
}

#[test]
fn the_fields_of_the_specs_are_the_listed_ones() {
    let mut fields = Vec::new();
    each_in_spec(&mut |kind, path, _| fields.push(format!("{} {path}", kind.name())));
    let listed: Vec<&str> = SPEC_FIELDS.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(fields, listed, "a field appeared or vanished: is it meant, and does it work?");
}

#[test]
fn nothing_is_nullable() {
    for kind in Kind::ALL {
        let text = serde_json::to_string(&schema(kind)).expect("JSON");
        assert!(!text.contains("nullable"), "{kind:?}");
        assert!(!text.contains("null]"), "{kind:?}: an enum with null");
    }
}

#[test]
fn every_list_and_map_is_bounded() {
    for kind in Kind::ALL {
        walk(&schema(kind), "", &mut |path, schema| {
            if schema["type"] == "array" {
                assert!(schema["maxItems"].is_number(), "{kind:?} {path}");
                assert!(schema["x-kubernetes-list-type"].is_string(), "{kind:?} {path}: which list type?");
            }
            if schema["additionalProperties"].is_object() {
                assert!(schema["maxProperties"].is_number(), "{kind:?} {path}");
            }
        });
    }
}

#[test]
fn every_string_of_a_spec_is_bounded_and_every_number_has_a_range() {
    each_in_spec(&mut |kind, path, schema| {
        let int_or_string = schema["x-kubernetes-int-or-string"] == json!(true);
        if schema["type"] == "string" || int_or_string {
            let bounded = schema["maxLength"].is_number() || schema["enum"].is_array();
            assert!(bounded, "{kind:?} {path}");
        }
        if schema["type"] == "integer" {
            assert!(schema["minimum"].is_number() && schema["maximum"].is_number(), "{kind:?} {path}");
            assert!(["int32", "int64"].contains(&schema["format"].as_str().unwrap_or("")), "{kind:?} {path}");
        }
    });
}

/// The keys of a map list must be required and of a scalar type (or have a default).
#[test]
fn map_lists_have_their_keys() {
    for kind in Kind::ALL {
        walk(&schema(kind), "", &mut |path, schema| {
            if schema["x-kubernetes-list-type"] != "map" {
                return;
            }
            for key in schema["x-kubernetes-list-map-keys"].as_array().expect("keys") {
                let required = schema["items"]["required"].as_array().expect("required");
                assert!(required.contains(key), "{kind:?} {path}: {key}");
                assert_eq!(schema["items"]["properties"][key.as_str().expect("a name")]["type"], "string");
            }
        });
    }
}

#[test]
fn the_schema_is_structural() {
    for kind in Kind::ALL {
        walk(&schema(kind), "", &mut |path, schema| {
            let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == json!(true);
            assert!(typed, "{kind:?} {path} has no type");
            for forbidden in ["$ref", "oneOf", "anyOf", "allOf", "not", "definitions", "uniqueItems", "title"] {
                assert_eq!(schema.get(forbidden), None, "{kind:?} {path}");
            }
        });
    }
}

#[test]
fn every_field_says_what_it_is() {
    each_in_spec(&mut |kind, path, schema| {
        let said = schema["description"].as_str().is_some_and(|text| !text.is_empty());
        assert!(said || path.ends_with("{}"), "{kind:?} {path}");
    });
    for kind in Kind::ALL {
        let root = schema(kind)["description"].as_str().expect("a description").to_owned();
        assert!(root.starts_with(kind.name()), "{root}");
    }
}

#[test]
fn conditions_are_map_lists_by_type() {
    for kind in Kind::ALL {
        let conditions = &schema(kind)["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{kind:?}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]), "{kind:?}");
    }
}

#[test]
fn every_pattern_compiles() {
    for kind in Kind::ALL {
        walk(&schema(kind), "", &mut |path, schema| {
            if let Some(pattern) = schema["pattern"].as_str() {
                assert!(regex::Regex::new(pattern).is_ok(), "{kind:?} {path}: {pattern}");
                assert!(pattern.starts_with('^') && pattern.ends_with('$'), "{kind:?} {path}: not anchored");
            }
        });
    }
}

#[test]
fn names_and_columns_are_as_designed() {
    let columns = |kind: Kind, priority: Option<i32>| -> String {
        let crd = definition(kind);
        let columns = crd.spec.versions[0].additional_printer_columns.clone().expect("columns");
        let names: Vec<String> = columns
            .into_iter()
            .filter(|column| column.priority == priority)
            .map(|column| column.name.to_uppercase())
            .collect();
        names.join(" ")
    };
    assert_eq!(columns(Kind::CacheCluster, None), "READY REASON NODES MIN REPLICAS CAPACITY USED AGE");
    assert_eq!(columns(Kind::CacheCluster, Some(1)), "EPOCH SHORT VERSION");
    assert_eq!(columns(Kind::CacheVolume, None), "CLUSTER ORIGIN ACCESS READY CACHED HIT MOUNTS AGE");
    assert_eq!(columns(Kind::CacheNode, None), "CLUSTER NODE STATE DOMAIN SLOTS OFFERED AGE");
    for kind in Kind::ALL {
        let crd = definition(kind);
        let names = &crd.spec.names;
        assert_eq!(crd.metadata.name, Some(format!("{}.larder.dev", kind.plural())));
        assert_eq!(names.kind, kind.name());
        assert_eq!(names.short_names, Some(vec![kind.short_name().to_owned()]));
        assert_eq!(names.categories, Some(vec!["larder".to_owned()]));
        assert!(crd.spec.versions[0].subresources.as_ref().is_some_and(|sub| sub.status.is_some()));
        assert_eq!(Kind::from_word(kind.short_name()), Some(kind));
        assert_eq!(Kind::from_name(kind.name()), Some(kind));
    }
    let selectable = definition(Kind::CacheNode).spec.versions[0].selectable_fields.clone().expect("selectable");
    let paths: Vec<&str> = selectable.iter().map(|field| field.json_path.as_str()).collect();
    assert_eq!(paths, [".spec.clusterName", ".spec.nodeName"]);
}

/// Every column's path leads to a field of the schema (a condition's: to a member of conditions).
#[test]
fn columns_show_fields_that_exist() {
    for kind in Kind::ALL {
        let mut paths = Vec::new();
        walk(&schema(kind), "", &mut |path, _| paths.push(path.to_owned()));
        let columns = definition(kind).spec.versions[0].additional_printer_columns.clone().expect("columns");
        for column in columns {
            let path = column.json_path.trim_start_matches('.').replace("[?(@.type==\"Ready\")]", "[]");
            assert!(path == "metadata.creationTimestamp" || paths.contains(&path), "{kind:?} {path}");
        }
    }
}
