// Reads a JSON list of Kubernetes objects from standard input, writes a JSON list of {name, errors} (errors: null where
// no schema is known). The schemas are those that the projects publish, compiled by @kubernetes-models.
import { createRequire } from "node:module";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const modules = process.argv[2];
const require = createRequire(join(modules, "x.js"));
const packages = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "networking.gke.io": "gke",
  "monitoring.coreos.com": "prometheus-operator",
};

async function schema(apiVersion, kind) {
  const [group, version] = apiVersion.split("/");
  const name = packages[group];
  if (!name) return null;
  const folder = join(modules, "@kubernetes-models", name, "_schemas");
  const end = `${version}${kind}.js`.toLowerCase();
  const found = readdirSync(folder).filter((file) => file.toLowerCase().endsWith(end));
  if (!found.length) return null;
  const file = join(folder, found[0]);
  try {
    return require(file).validate;
  } catch {
    return (await import(pathToFileURL(file))).validate;
  }
}

const answers = [];
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${object.kind}/${object.metadata?.name}`;
  const validate = await schema(object.apiVersion, object.kind);
  answers.push({ name, errors: !validate ? null : validate(object) ? [] : validate.errors });
}
console.log(JSON.stringify(answers));
