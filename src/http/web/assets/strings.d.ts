/** The server fills in the English texts. */
export const STRINGS: Readonly<Record<string, readonly [zh: string, en: string]>>;
