/** JSON of our own making, with the infinities that mean "no bound" here, and which JSON does not have. */

export function toText(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) => {
    if (member === Number.NEGATIVE_INFINITY) return '-Infinity';
    return member === Number.POSITIVE_INFINITY ? 'Infinity' : member;
  });
}

/** The inverse of {@link toText}; unchecked. */
export function fromText(text: string) {
  return JSON.parse(text, (_key, member: unknown) =>
    member === '-Infinity' || member === 'Infinity' ? Number(member) : member,
  );
}
