/** The parameters of a turn or a conversation, and JSON that is passed on as it is. */
import { z } from 'zod';
import type { JsonObject, ParameterChanges } from '../../domain/chat/parameters.ts';
import { isObject } from '../../util/json.ts';
import { cleanText, strictObject } from './common.ts';

const MAX_TOOLS = 128;
const MAX_STOPS = 16;
const MAX_STOP_CHARS = 200;
/** Of all parameters as JSON, in UTF-16 units. */
const MAX_CHARS = 256 * 1024;

/** What is wrong with names and texts of passed-on JSON; undefined: nothing. */
export function jsonProblem(value: unknown): string | undefined {
  if (typeof value === 'string') {
    if (value.includes('\0')) return 'must not contain the NUL character';
    return value.isWellFormed() ? undefined : 'must not contain a lone surrogate';
  }
  // Text such as 1e999 is beyond every number, and would be sent as null.
  if (typeof value === 'number' && !Number.isFinite(value)) return 'must not contain a number beyond 1.8e308';
  if (typeof value !== 'object' || value === null) return undefined;
  for (const [name, member] of Object.entries(value)) {
    if (name === '__proto__') return 'must not have a member __proto__';
    const problem = jsonProblem(name) ?? jsonProblem(member);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

const jsonObject = z
  .custom<JsonObject>(isObject, 'must be an object')
  .meta({ override: { type: 'object', additionalProperties: true } })
  .superRefine((value, context) => {
    const message = jsonProblem(value);
    if (message !== undefined) context.addIssue({ code: 'custom', message });
  });

const TOOL_NAME = /^[\w.:-]{1,128}$/;

function hasFunction(value: JsonObject): boolean {
  const called = value.function;
  if (value.type !== 'function' || !isObject(called)) return false;
  return typeof called.name === 'string' && TOOL_NAME.test(called.name);
}

const tool = jsonObject
  .refine(
    hasFunction,
    'must be {"type":"function","function":{"name":…}} with a name of 1 to 128 letters, digits, _, -, . or :',
  )
  .refine(
    ({ function: called }) =>
      !isObject(called) || called.parameters === undefined || isObject(called.parameters),
    'must have an object as function.parameters',
  );

/** Members of the body that the server sets itself, or that have a place of their own. */
const SET_BY_SERVER = [
  'messages',
  'model',
  'stream',
  'stream_options',
  'user',
  'n',
  'max_completion_tokens',
] as const;

const number = (min: number, max: number) =>
  z
    .number(`must be a number from ${min} to ${max}`)
    .min(min, `must be at least ${min}`)
    .max(max, `must be at most ${max}`);

export const KNOWN = {
  temperature: number(0, 2),
  top_p: number(0, 1),
  max_tokens: z
    .int('must be a whole number')
    .min(1, 'must be at least 1')
    .max(10_000_000, 'must be at most 10000000'),
  stop: z.union(
    [
      stopText(),
      z.array(stopText()).min(1, 'must not be empty').max(MAX_STOPS, `must have at most ${MAX_STOPS} texts`),
    ],
    {
      error: 'must be text or an array of texts',
    },
  ),
  seed: z.int('must be a whole number'),
  frequency_penalty: number(-2, 2),
  presence_penalty: number(-2, 2),
  response_format: jsonObject.refine(({ type }) => typeof type === 'string', 'must have a type'),
  reasoning_effort: cleanText(
    z.string('must be text').min(1, 'must not be empty').max(32, 'must be at most 32 characters long'),
  ),
  tools: z
    .array(tool, 'must be an array')
    .min(1, 'must not be empty')
    .max(MAX_TOOLS, `must have at most ${MAX_TOOLS} tools`),
  tool_choice: z.union([z.enum(['none', 'auto', 'required']), jsonObject], {
    error: 'must be none, auto, required or an object that names a function',
  }),
  parallel_tool_calls: z.boolean('must be true or false'),
};

function stopText() {
  return cleanText(
    z
      .string()
      .min(1, 'must not be empty')
      .max(MAX_STOP_CHARS, `must be at most ${MAX_STOP_CHARS} characters long`),
  );
}

/** @param allowed whether callers may add members that this server does not know */
function extraMembers(allowed: boolean) {
  const named = new Set<string>([...SET_BY_SERVER, ...Object.keys(KNOWN)]);
  return jsonObject.superRefine((extra, context) => {
    if (!allowed) {
      context.addIssue({ code: 'custom', message: 'is not allowed here: ALLOW_EXTRA_PARAMETERS is off' });
      return;
    }
    for (const name of Object.keys(extra)) {
      if (!named.has(name)) continue;
      const message = name in KNOWN ? 'is a parameter of its own' : 'is set by the server';
      context.addIssue({ code: 'custom', path: [name], message });
    }
  });
}

function changesSchema(allowsExtra: boolean): z.ZodType<ParameterChanges> {
  const members = { ...KNOWN, extra: extraMembers(allowsExtra) };
  const shape = Object.fromEntries(
    Object.entries(members).map(([name, member]) => [name, member.nullable().optional()]),
  );
  return strictObject(shape)
    .refine(
      (value) => JSON.stringify(value).length <= MAX_CHARS,
      `must be at most ${MAX_CHARS} characters of JSON`,
    )
    .meta({
      id: 'Parameters',
      description:
        'Sent to the model server, each over the one of the conversation and of the settings; null removes an inherited ' +
        'one. `extra` has further members of the body to the model server',
    });
}

/** One of each, because their id names them in the OpenAPI document. */
const [WITH_EXTRA, WITHOUT_EXTRA] = [changesSchema(true), changesSchema(false)];

/** @param allowsExtra as ALLOW_EXTRA_PARAMETERS */
export function parameterChanges(allowsExtra: boolean): z.ZodType<ParameterChanges> {
  return allowsExtra ? WITH_EXTRA : WITHOUT_EXTRA;
}
