// A page that says why another cannot be shown: in the remembered theme.

import { remembered, setTheme } from "./common.js";

setTheme(remembered("theme"));
