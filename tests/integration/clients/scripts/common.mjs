// What the scripts of node share: arguments, and one line of JSON for each event.
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

export const [modules, url, names] = [process.argv[2], process.argv[3], JSON.parse(process.argv[4])];
const require = createRequire(path.join(modules, "x.js"));
export const load = (name) => import(pathToFileURL(require.resolve(name)));
export const show = (type, data, id) => console.log(JSON.stringify([type, data, id ?? ""]));
