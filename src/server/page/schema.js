// JSON Schemas of the API's description: references, names of types, examples.

/** What a `$ref` of the description points to; other schemas are themselves. */
export function resolve(api, schema) {
  let found = schema;
  for (let steps = 0; found?.$ref && steps < 16; steps += 1) {
    const path = found.$ref.replace(/^#\//, "").split("/");
    found = path.reduce((at, key) => at?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], api);
  }
  return found ?? {};
}

/** The name of a schema's type, for a person. */
export function typeName(api, schema, depth = 0) {
  const name = schema.$ref?.split("/").at(-1);
  if (name) return name;
  if (depth > 4) return "any";
  const types = [schema.type ?? []].flat();
  if (schema.items && types.includes("array")) {
    const rest = types.filter((t) => t !== "array").map((t) => ` | ${t}`);
    return `${typeName(api, schema.items, depth + 1)}[]${rest.join("")}`;
  }
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices) return choices.map((c) => typeName(api, c, depth + 1)).join(" | ");
  if (schema.allOf?.length === 1) return typeName(api, schema.allOf[0], depth + 1);
  return types.join(" | ") || (schema.properties ? "object" : "any");
}

/** A value that fits a schema: its example, else a short one of its type with the properties that are required. */
export function example(api, schema, depth = 0) {
  const whole = resolve(api, schema);
  for (const value of [whole.example, whole.examples?.[0], whole.default, whole.const, whole.enum?.[0]]) {
    if (value !== undefined && value !== null) return value;
  }
  if (depth > 5) return {};
  if (whole.allOf) return Object.assign({}, ...whole.allOf.map((part) => example(api, part, depth + 1)));
  const choices = (whole.oneOf ?? whole.anyOf)?.filter((c) => resolve(api, c).type !== "null");
  if (choices?.length) return example(api, choices[0], depth + 1);
  const type = [whole.type ?? (whole.properties ? "object" : "any")].flat().find((t) => t !== "null");
  switch (type) {
    case "string": return "text";
    case "integer": return 1;
    case "number": return 0.5;
    case "boolean": return true;
    case "array": return whole.items ? [example(api, whole.items, depth + 1)] : [];
    default: {
      const all = Object.entries(whole.properties ?? {});
      const required = all.filter(([name]) => (whole.required ?? []).includes(name));
      return Object.fromEntries(required.map(([name, inner]) => [name, example(api, inner, depth + 1)]));
    }
  }
}
