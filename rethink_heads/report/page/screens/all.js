// The screens, in the order of their links; the digits 1 to 9 and 0 open them.
import { verdict } from "./verdict.js";
import { score } from "./score.js";
import { objects } from "./objects.js";
import { methods } from "./methods.js";

export const SCREENS = { verdict, score, objects, methods };
