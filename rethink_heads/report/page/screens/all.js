// The screens, in the order of their links; the digits 1 to 9 and 0 open the first ten.
import { verdict } from "./verdict.js";
import { lost } from "./lost.js";
import { score } from "./score.js";
import { boxes } from "./boxes.js";
import { space } from "./space.js";
import { stages } from "./stages.js";
import { compare } from "./compare.js";
import { classes } from "./classes.js";
import { thresholds } from "./thresholds.js";
import { objects } from "./objects.js";
import { methods } from "./methods.js";

export const SCREENS = { verdict, lost, score, boxes, space, stages, compare, classes, thresholds, objects, methods };
