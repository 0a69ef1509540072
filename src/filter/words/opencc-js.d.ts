/** The package declares no types for its tables: pairs of a character and its counterpart, `來 来|個 个|…`. */
declare module 'opencc-js/dict/TSCharacters' {
  const pairs: string;
  export default pairs;
}
