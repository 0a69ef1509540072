type Texts = Readonly<Record<string, readonly [zh: string, en: string]>>;

/** The server fills in the English texts. */
export const STRINGS: Texts;
/** By error code. */
export const ERRORS: Texts;
