/** A JSON object that is passed on as it is. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** How the model generates a reply. The names are those of OpenAI's API. */
export interface ModelParameters {
  readonly temperature?: number;
  readonly top_p?: number;
  readonly max_tokens?: number;
  readonly stop?: string | readonly string[];
  readonly seed?: number;
  readonly frequency_penalty?: number;
  readonly presence_penalty?: number;
  readonly response_format?: JsonObject;
  readonly reasoning_effort?: string;
  readonly tools?: readonly JsonObject[];
  readonly tool_choice?: string | JsonObject;
  readonly parallel_tool_calls?: boolean;
  /** Further members of the body that the model server gets. */
  readonly extra?: JsonObject;
}

/** Parameters over inherited ones; null removes an inherited one. */
export type ParameterChanges = {
  readonly [Name in keyof ModelParameters]?: ModelParameters[Name] | null;
};

/** The parameters with changes over them: per member, `extra` per member of it, everything else as a whole. */
export function withChanges(
  parameters: ModelParameters,
  changes: ParameterChanges | null | undefined,
): ModelParameters {
  if (!changes) return parameters;
  const { extra: inherited, ...rest } = parameters;
  const { extra: changed, ...others } = changes;
  const extra = changed === null ? {} : withoutNulls({ ...inherited, ...changed });
  const merged: ModelParameters = withoutNulls({ ...rest, ...others });
  return Object.keys(extra).length === 0 ? merged : { ...merged, extra };
}

function withoutNulls(members: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== null));
}
